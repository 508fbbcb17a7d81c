"""A worker for a PACS: each new CT series that fits taken through the chain, and its results stored there."""

__all__ = ["connection", "content", "dicomweb", "orthanc", "rules", "running", "servers", "state", "steps", "worker"]
