"""Archives of the bundles for the MONAI Model Zoo, and what its CI asks of a bundle."""

__all__ = ["archives", "bundle", "checks"]
