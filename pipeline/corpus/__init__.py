"""From a corpus anywhere to checked manifests with normalised text and CTC units."""
