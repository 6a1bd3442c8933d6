"""The demo: the main job from a bare base to a rollback, told through the public API only."""
