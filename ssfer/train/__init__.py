"""The training loop and what it runs on: device, processes, schedules, snapshots."""
