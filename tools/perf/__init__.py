"""How fast this suite is, next to what it is compared with. `make perf` runs it; nothing here is asserted."""
