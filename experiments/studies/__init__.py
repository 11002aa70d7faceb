"""Studies by name: a file each, whose ``STUDY`` says what is trained and asked."""
