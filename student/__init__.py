"""The student: a Conformer with CTC, taught by attention decoders that are thrown away."""
