"""Tables of what asv has stored, and of single checks. Only this part of tlbench knows asv's files."""
