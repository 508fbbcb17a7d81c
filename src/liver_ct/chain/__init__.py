"""From a CT to its result: both bundles loaded once, and folders of studies worked off."""

__all__ = ["arrays", "crew", "folder", "memory", "pipeline", "plausibility", "progress", "stages", "studies", "terms"]
