"""What a training reads: manifests, audio, units, the teacher's labels, batches."""
