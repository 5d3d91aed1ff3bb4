"""What the command line and Python users call: each verb is a part of the line, or all of it."""
