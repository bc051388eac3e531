"""The Hugging Face Hub: cards that it understands, and folders that go to it."""

from pipeline.hub.push import Push, plan_push, push_folder

__all__ = ["Push", "plan_push", "push_folder"]
