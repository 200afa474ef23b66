"""The self-made syllabus as an object that is saved, inspected and resumed."""
