"""What the command line shows: progress while it runs, then tables. One file for each kind of result."""
