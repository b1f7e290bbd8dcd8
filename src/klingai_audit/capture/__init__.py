"""Acts into entries: intent before the request, outcome after it, for the HTTP libraries people have."""
