"""The world: places with ids, real, from a user's file, or synthetic; which of them are new."""
