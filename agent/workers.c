/*
 * workers.c - see workers.h.
 */
#include "workers.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/lg_geometry.h"
#include "../common/lg_liveness.h"

static int held_slot(int dir_fd, const char *name, uint32_t uid, uint32_t ppid, const char *app);

uint32_t
lg_worker_slot(const char *dir, uint32_t uid, uint32_t ppid, const char *app)
{
    uint64_t held = 0;
    DIR *d = opendir(dir != NULL ? dir : "/dev/shm");
    if (d == NULL) {
        return 0;
    }
    struct dirent *entry;
    while ((entry = readdir(d)) != NULL) {
        if (strncmp(entry->d_name, LG_SEGMENT_PREFIX, strlen(LG_SEGMENT_PREFIX)) == 0) {
            int slot = held_slot(dirfd(d), entry->d_name, uid, ppid, app);
            if (slot >= 0 && slot < 64) {
                held |= UINT64_C(1) << slot;
            }
        }
    }
    closedir(d);
    uint32_t slot = 0;
    while (slot < 63 && (held & UINT64_C(1) << slot) != 0) {
        slot++;
    }
    return slot;
}

/* The number that a live worker of ours holds; -1: none. */
static int
held_slot(int dir_fd, const char *name, uint32_t uid, uint32_t ppid, const char *app)
{
    static _Alignas(8) char page[LG_HEADER_PAGE];       /* start only, under the GIL */
    struct lg_geometry geo;
    struct lg_fault fault;
    struct stat st;
    int slot = -1;
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == uid &&
        pread(fd, page, sizeof(page), 0) == (ssize_t)sizeof(page) &&
        lg_geometry_check(page, sizeof(page), (uint64_t)st.st_size, &geo, &fault) == 0 &&
        geo.proc.ppid == ppid && strcmp(geo.proc.app, app) == 0 &&
        lg_liveness(&geo, fd, (int)geo.proc.pid) == LG_ALIVE) {
        slot = (int)geo.proc.worker_slot;
    }
    close(fd);
    return slot;
}
