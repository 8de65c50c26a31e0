"""Stateless translation as a program (`gateway --mode siit`)."""
