"""The self-made curriculum as an object that is saved, inspected and resumed."""
