"""Lightning callbacks: difficulty signals, weight push, logs."""
