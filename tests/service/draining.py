"""Takes every job there is, in a process of its own; imports little, since each such process imports it anew."""

import time

from mithridate.service.database.opened import Database
from mithridate.service.jobs.job_leases import claim
from mithridate.service.jobs.transitions import move


def drain(url, results):
    database = Database(url)
    taken, times = [], []
    while True:
        began = time.perf_counter()
        with database.write() as connection:
            lease = claim(connection, "w")
        times.append(time.perf_counter() - began)
        if lease is None:
            break
        taken.append(lease.job)
        with database.write() as connection:
            assert move(connection, lease.job, "cancelled", fence=lease.fence)
    results.put((taken, times))
