"""What asv lacks: a site that opens without internet, the facts of an environment, and figures read in one process."""
