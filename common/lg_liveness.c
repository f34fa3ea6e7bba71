/*
 * lg_liveness.c - is the writer of this segment alive?
 *
 * Reader's side, any thread. Asks the kernel; waits for nobody.
 */
#include "lg_liveness.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lg_error.h"
#include "lg_proc.h"

#define BIRTH_WINDOW_S 60

enum lock_says { LOCK_UNASKED, LOCK_FREE, LOCK_HELD };

static bool other_boot(const struct lg_proc_info *proc);
static enum lock_says ask_lock(const struct lg_geometry *geo, int fd);
static int pid_here(const struct lg_proc_info *proc, int pid);
static enum lg_life ask_proc(const struct lg_proc_info *proc, int pid, enum lock_says lock);

enum lg_life
lg_liveness(const struct lg_geometry *geo, int fd, int pid)
{
    if (other_boot(&geo->proc)) {
        return LG_DEAD;
    }
    enum lock_says lock = ask_lock(geo, fd);
    pid = pid_here(&geo->proc, pid);
    /* Without a pid to ask about, only a free lock proves death. */
    enum lg_life life = pid != 0 ? ask_proc(&geo->proc, pid, lock) : LG_ALIVE;
    if (lock == LOCK_FREE && life == LG_ALIVE) {
        return LG_DEAD;
    }
    return life;
}

/* Unknown on either side (a masked /proc) proves nothing. */
static bool
other_boot(const struct lg_proc_info *proc)
{
    static const uint8_t unknown[16];
    uint8_t boot_id[16];
    return lg_proc_read_boot_id(boot_id) == 0 &&
           memcmp(proc->boot_id, unknown, sizeof(unknown)) != 0 &&
           memcmp(proc->boot_id, boot_id, sizeof(boot_id)) != 0;
}

/* Shared, so that two readers do not take each other for the writer, and given
 * back at once. While a segment is being made the probe could cost the agent
 * its own lock, hence the birth window. */
static enum lock_says
ask_lock(const struct lg_geometry *geo, int fd)
{
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0) {
        return LOCK_UNASKED;
    }
    if (geo->header.magic == 0 && time(NULL) - st.st_mtime < BIRTH_WINDOW_S) {
        return LOCK_UNASKED;
    }
    if (flock(fd, LOCK_SH | LOCK_NB) == 0) {
        flock(fd, LOCK_UN);
        return LOCK_FREE;
    }
    return errno == EWOULDBLOCK ? LOCK_HELD : LOCK_UNASKED;
}

/* The process's number in our /proc, 0 when there is no telling. */
static int
pid_here(const struct lg_proc_info *proc, int pid)
{
    uint64_t ns_pid;
    if (pid != 0) {
        return pid;
    }
    if (proc->ns_pid != 0 && lg_proc_read_ns(0, "pid", &ns_pid) == 0 && ns_pid == proc->ns_pid) {
        return (int)proc->pid;
    }
    return 0;
}

static enum lg_life
ask_proc(const struct lg_proc_info *proc, int pid, enum lock_says lock)
{
    struct lg_proc_stat stat;
    uint64_t ns_time;
    int err = lg_proc_read_stat(pid, &stat);
    if (err == -ESRCH) {
        /* A /proc with hidepid hides it; the signal that is none tells. */
        return kill(pid, 0) < 0 && errno == ESRCH ? LG_DEAD : LG_ALIVE;
    }
    if (err != 0) {
        return LG_ALIVE;                /* not ours to look at */
    }
    /* Start times are told in the looker's time namespace. */
    if (lg_proc_read_ns(0, "time", &ns_time) == 0 && ns_time == proc->ns_time &&
        stat.start_ticks != proc->start_ticks) {
        return LG_DEAD_REUSED;
    }
    /* A zombie's files are closed; if the lock is held, only its first thread
     * has ended. */
    bool ended = stat.state == 'Z' || stat.state == 'X';
    return ended && lock != LOCK_HELD ? LG_DEAD : LG_ALIVE;
}
