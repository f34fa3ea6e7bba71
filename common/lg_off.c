/*
 * lg_off.c - the note of an agent that is loaded but switched off.
 *
 * Called once, by the thread that found no segment could be made. A memfd
 * needs no directory, no space of /dev/shm and no cleaning up: it ends with
 * the process.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lg_page.h"
#include "lg_segment.h"

static int write_note(int fd, const void *page);

int
lg_segment_off_note(const struct lg_proc_info *proc, const char *reason)
{
    _Alignas(64) uint8_t page[LG_HEADER_PAGE] = {0};
    struct lg_plan plan;
    struct lg_proc_info described = {0};
    struct lg_config_info config = {0};
    if (proc != NULL) {
        described = *proc;
    }
    int err = lg_page_describe(&described);
    if (err != 0) {
        return err;
    }
    snprintf(described.off_reason, sizeof(described.off_reason), "%s", reason);
    lg_plan_note(&plan);
    lg_page_fill(page, &plan, &described, &config, LG_STATE_OFF);
    lg_page_publish(page);
    int fd = memfd_create(LG_OFF_MEMFD_NAME, MFD_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    err = write_note(fd, page);
    if (err != 0) {
        close(fd);
        return err;
    }
    return fd;
}

/* The lock says "alive", as on a segment; a memfd starts with mode 0777. */
static int
write_note(int fd, const void *page)
{
    if (fchmod(fd, 0600) < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return -errno;
    }
    ssize_t n = pwrite(fd, page, LG_HEADER_PAGE, 0);
    if (n < 0) {
        return -errno;
    }
    return n == LG_HEADER_PAGE ? 0 : -ENOSPC;
}
