"""The flight recorder for Kling AI."""
