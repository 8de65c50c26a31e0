"""End to end: the gateway on a real tap device, with real programs, in network namespaces.

Everything here needs root and /dev/net/tun, and leaves nothing on the machine: devices,
routes and rules live in namespaces that are removed with the test. `namespaces.py` owns
namespaces and processes, `topology.py` draws and builds the networks, `gateway_process.py`
runs the gateway in one, `servers.py` the programs at the far end.
"""
