"""What the surface looks like: starts, searches, spectra, certificates and verdicts."""
