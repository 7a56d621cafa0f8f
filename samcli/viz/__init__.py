"""Pictures for people: masks, points and boxes drawn over images."""
