"""Stands in for ci/unit_tests/utils.py of the Model Zoo, where these tests find `check_workflow`."""

from monai.bundle import ConfigWorkflow


def check_workflow(workflow: ConfigWorkflow, check_properties: bool = False) -> None:
    """Run a workflow from beginning to end."""
    workflow.initialize()
    if check_properties and (lacking := workflow.check_properties()):
        raise ValueError(f"the workflow lacks the properties {lacking}")
    workflow.run()
    workflow.finalize()
