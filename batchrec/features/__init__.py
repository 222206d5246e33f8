"""Features: what a Feast repository knew about users and items at a time, and how raw columns become numbers."""
