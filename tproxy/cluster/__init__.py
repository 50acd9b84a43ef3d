"""Where Destination resources come from: a folder of files, or Kubernetes."""
