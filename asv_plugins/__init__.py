"""Plugins for asv: an offline site, environment metadata, arithmetic by machine name, and figures read in one process."""
