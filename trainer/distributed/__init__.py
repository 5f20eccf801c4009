"""Devices, the process group, collectives, the watchdog, stop requests and exit codes."""
