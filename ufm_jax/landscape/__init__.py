"""Any landscape: what is known of it, searches, spectra, evidence and verdicts modulo its symmetry."""
