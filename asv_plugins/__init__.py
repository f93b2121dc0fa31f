"""What asv lacks: installs by era, and a site that opens without internet."""
