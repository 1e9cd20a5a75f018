"""One readable function a stage of the road: from a config to what the stage leaves on disk."""
