"""One optimiser step: gradients, what each part of the objective has of them, spikes, and the update."""
