"""What must be reached, in all parts of tests/bench/run."""

# life
MAX_BINARY_KB = 1300
MAX_START_RATIO = 1.5  # of the bare server, where the state directory exists
MAX_STOP_RATIO = 1.5
MAX_PSS_MB = 1.0

# requests
MIN_HEALTH = 0.8  # of the bare server
MAX_UPSTREAM_US = 28.0  # of CPU, user and system
MIN_PROXY = 0.8  # of the bare proxy
MIN_NGINX = 0.7
MIN_ECHO = 0.5  # of the bare server's /health
MIN_COMMAND = 0.85  # of a server that spawns cat

# living
MIN_STAYING = 10.0  # of turns through cat, which each have a process
MAX_STAYING_US = 60.0  # of CPU, the gateway's own

# front
MAX_ADDED_US = 10.0  # beyond what nginx adds, at the median
MAX_FIRST_MS = 1.0  # from an agent's first byte to the client's

# connections
MAX_IDLE_KB = 20.0
MAX_MANY_MB = 200.0

# durable
MIN_LOOP = 0.85  # of the loop of fdatasync, with one client
MIN_SQLITE = 4.5  # with the most clients
MIN_POSTGRES = 1.25  # with the most clients

# recovery, memory
MAX_RECOVERY_MS = 1000.0
MAX_GROWTH = 1.2  # and 1 MiB

# buffers
MAX_PEAK_RATIO = 4.0  # of what came in
MAX_LEFT_MB = 4.0  # ten seconds later
MAX_BUFFERED_MIB = 64.0  # limits.max_buffered
MAX_BESIDE_MIB = 8.0  # 24 kB a connection

# lock
MAX_HOLD_MS = 10.0

# systemd
MAX_STOP_EXTRA_MS = 5.0  # beyond one `systemctl show`

# restarts
MAX_LOST = 0
