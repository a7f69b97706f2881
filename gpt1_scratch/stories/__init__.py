"""The embedded stories: a generated corpus to pre-train on, and generated tasks about its world to fine-tune on."""
