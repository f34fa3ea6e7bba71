/*
 * cgroup.h - how often the kernel has stopped our control group because its
 * quota of CPU time was used up.
 *
 * No GIL, nothing of Python. The group is the one the process is in when the
 * file is opened; version 2, or 1 with the controller mounted at its usual
 * place under /sys/fs/cgroup.
 */
#ifndef LG_AGENT_CGROUP_H
#define LG_AGENT_CGROUP_H

#include <stdint.h>

/* Descriptor of the group's cpu.stat, or -1 where there is none. */
int lg_cgroup_open(void);

/* Periods in which the group was throttled; LG_NONE where nobody says. */
uint64_t lg_cgroup_throttled(int fd);

#endif
