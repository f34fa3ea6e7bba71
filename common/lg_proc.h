/*
 * lg_proc.h - what /proc says of a process. Opens and closes; keeps nothing.
 *
 * Any thread, either side. Functions return 0, -errno or LG_E*; a process
 * that is not there is -ESRCH.
 */
#ifndef LG_PROC_H
#define LG_PROC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct lg_proc_stat {
    uint64_t start_ticks;               /* field 22 */
    uint32_t ppid;
    char state;                         /* R S D T t Z X */
    char comm[64];
};

struct lg_proc_status {
    uint32_t uid;                       /* effective */
    uint32_t inner_pid;                 /* last number of NSpid */
};

/* pid 0 means the calling process ("self"). */
int lg_proc_read_stat(pid_t pid, struct lg_proc_stat *out);
int lg_proc_read_status(pid_t pid, struct lg_proc_status *out);
/* Arguments joined by spaces, cut to `size`; "" for a zombie. */
int lg_proc_read_cmdline(pid_t pid, char *out, size_t size);
int lg_proc_read_exe(pid_t pid, char *out, size_t size);
/* Inode number of /proc/PID/ns/NAME ("pid", "mnt", "time"); 0 in *out when
 * the kernel has no such namespace. */
int lg_proc_read_ns(pid_t pid, const char *name, uint64_t *out);
int lg_proc_read_boot_id(uint8_t out[16]);

#endif
