"""What training minimises: pure functions of tensors, and the table that weighs them."""
