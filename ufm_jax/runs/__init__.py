"""Many starts and decay settings at once: plan, engine, store."""
