"""`make chaos`: a host must survive its database, its plugins, its operators and the death of any
of its processes.

Each scenario starts real processes on a database of its own, causes one fault, and states what must
hold:

    make chaos                              all faults of the trial, on PostgreSQL and where they
    apply on SQLite make chaos ARGS="h1 h7 --on sqlite"     some of them, on one database make chaos
    ARGS=kills                   50 x kill -9 during 5,000 calls and 1,000 durable runs, three
    restarts of PostgreSQL make chaos ARGS=revocations             the age of the last call that was
    accepted after access was taken away

The exit code is 1 where a promise was broken; the folder with the logs is kept then. Durations
depend on the machine. The zeros must not.

As root on Linux all of it runs in a network and mount namespace of its own: H4 drops packets there,
and the full disk is mounted there.
"""
