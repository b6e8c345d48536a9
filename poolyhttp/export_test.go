package poolyhttp

// Known returns how many hosts a driver remembers.
func (d *Driver) Known() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.hosts)
}
