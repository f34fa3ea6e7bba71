/*
 * rig.h - what several tests of common/ need: cmocka, a tmpfs folder of one's
 * own, a segment in it, and its bytes.
 *
 * Failures inside a forked child are told by its exit status; cmocka's
 * assertions belong to the parent.
 */
#ifndef RIG_H
#define RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lg_clock.h"
#include "lg_crc32c.h"
#include "lg_error.h"
#include "lg_geometry.h"
#include "lg_segment.h"

struct rig_dir {
    char path[64];
};

static inline void
rig_dir_make(struct rig_dir *dir)
{
    strcpy(dir->path, "/dev/shm/lg-test-XXXXXX");
    assert_non_null(mkdtemp(dir->path));
}

#define RIG_PATH 384

/* How many entries are in it; `path` (may be NULL) gets the path of one. */
static inline int
rig_dir_find(const struct rig_dir *dir, char path[RIG_PATH])
{
    int count = 0;
    DIR *d = opendir(dir->path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.') {
            count++;
            if (path != NULL) {
                snprintf(path, RIG_PATH, "%s/%s", dir->path, e->d_name);
            }
        }
    }
    closedir(d);
    return count;
}

static inline int
rig_dir_count(const struct rig_dir *dir)
{
    return rig_dir_find(dir, NULL);
}

static inline void
rig_dir_remove(struct rig_dir *dir)
{
    DIR *d = opendir(dir->path);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (e->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
        }
    }
    closedir(d);
    assert_int_equal(rmdir(dir->path), 0);
}

/* A segment of `pid` (0: this process) with two endpoints. */
static inline struct lg_segment
rig_segment(const struct rig_dir *dir, uint32_t pid)
{
    struct lg_segment seg;
    struct lg_segment_options options = {.dir = dir->path, .endpoints = 2, .proc.pid = pid};
    assert_int_equal(lg_segment_create(&options, &seg), 0);
    return seg;
}

/* A 64-byte aligned copy of the segment's bytes; free() it. */
static inline uint8_t *
rig_bytes(const struct lg_segment *seg)
{
    uint8_t *bytes = aligned_alloc(64, seg->size);
    assert_non_null(bytes);
    memcpy(bytes, seg->base, seg->size);
    return bytes;
}

/* The checksum again, after a test wrote into a header page. */
static inline void
rig_seal(uint8_t *page)
{
    uint32_t crc =
        lg_crc32c(page + sizeof(struct lg_header), LG_HEADER_PAGE - sizeof(struct lg_header));
    memcpy(page + offsetof(struct lg_header, crc32c), &crc, sizeof(crc));
}

/* Geometry of the file at `path`. */
static inline int
rig_geometry(const char *path, struct lg_geometry *geo)
{
    _Alignas(64) uint8_t page[LG_HEADER_PAGE];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    ssize_t n = pread(fd, page, sizeof(page), 0);
    assert_true(n >= 0);
    close(fd);
    return lg_geometry_check(page, (size_t)n, (uint64_t)st.st_size, geo, NULL);
}

static inline int
rig_wait(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* xorshift64: the same numbers in every run. */
static inline uint64_t
rig_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

#endif
