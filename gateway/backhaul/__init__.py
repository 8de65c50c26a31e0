"""The backhaul: translated packets as Ethernet frames over a link to a dual-stack peer.

link.py says what a link is; ssh is one of them. supervisor.py keeps one of them up.
"""
