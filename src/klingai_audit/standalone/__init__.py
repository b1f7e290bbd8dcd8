"""Programs that stand alone: nothing here imports from this package, and nothing in it imports them."""
