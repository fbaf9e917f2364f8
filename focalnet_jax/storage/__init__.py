"""Files of runs on local disks and in buckets of Google Cloud Storage: addresses, files, lease, mirror."""
