"""What people read: tables of what asv has stored. The only part of tlbench that knows asv's files."""
