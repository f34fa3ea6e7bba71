/*
 * lg_retention.c - how long dead segments stay.
 *
 * Run by the agent at its start and by `loopguard-top --prune`. Unlinks only,
 * never truncates: a reader may have the file mapped. The lifetime lock
 * decides who is dead, never a pid alone: two containers may share /dev/shm.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lg_clock.h"
#include "lg_geometry.h"
#include "lg_segment.h"

#define KEEP_SEGMENTS 4
#define KEEP_BYTES (UINT64_C(16) << 20)
#define KEEP_S (24 * 3600)
#define BIRTH_WINDOW_S 60

/* One dead segment. Its lock is held through `fd` until the sweep is over, so
 * that no second sweep looks at it. */
struct corpse {
    char name[64];
    int fd;
    uint64_t ended_s;                   /* wall clock, last sign of life */
    uint64_t size_bytes;
    dev_t device;
    ino_t inode;
};

struct morgue {
    struct corpse *corpse;
    size_t count;
    size_t room;
};

static int collect(int dir_fd, DIR *stream, struct morgue *morgue);
static bool is_segment_name(const char *name);
static const char *skip_digits(const char *text);
static bool examine(int dir_fd, const char *name, struct corpse *out);
static bool may_lock(int fd, const struct stat *st);
static uint64_t last_sign_of_life(int fd, const struct stat *st);
static int add_corpse(struct morgue *morgue, const struct corpse *corpse);
static int newest_first(const void *a, const void *b);
static int sweep(int dir_fd, struct morgue *morgue, bool all);
static bool unlink_corpse(int dir_fd, const struct corpse *corpse);

int
lg_segment_prune(const char *dir, bool all)
{
    struct morgue morgue = {0};
    DIR *stream = opendir(dir != NULL ? dir : "/dev/shm");
    if (stream == NULL) {
        return -errno;
    }
    int result = collect(dirfd(stream), stream, &morgue);
    if (result == 0) {
        result = sweep(dirfd(stream), &morgue, all);
    }
    for (size_t i = 0; i < morgue.count; i++) {
        close(morgue.corpse[i].fd);
    }
    free(morgue.corpse);
    closedir(stream);
    return result;
}

static int
collect(int dir_fd, DIR *stream, struct morgue *morgue)
{
    struct dirent *entry;
    struct corpse corpse;
    while ((entry = readdir(stream)) != NULL) {
        if (!is_segment_name(entry->d_name) || !examine(dir_fd, entry->d_name, &corpse)) {
            continue;
        }
        int err = add_corpse(morgue, &corpse);
        if (err != 0) {
            close(corpse.fd);
            return err;
        }
    }
    return 0;
}

/* loopguard.<pid>.<start ticks>[.1-7], and nothing that a user might name. */
static bool
is_segment_name(const char *name)
{
    size_t prefix = strlen(LG_SEGMENT_PREFIX);
    if (strncmp(name, LG_SEGMENT_PREFIX, prefix) != 0 ||
        strlen(name) >= sizeof(((struct corpse *)NULL)->name)) {
        return false;
    }
    const char *dot = skip_digits(name + prefix);
    if (dot == NULL || *dot != '.') {
        return false;
    }
    const char *end = skip_digits(dot + 1);
    if (end == NULL) {
        return false;
    }
    return *end == '\0' || (end[0] == '.' && end[1] >= '1' && end[1] <= '7' && end[2] == '\0');
}

/* Behind at least one digit, or NULL. */
static const char *
skip_digits(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n == 0 ? NULL : text + n;
}

/* True when `name` is a dead segment of ours; its locked fd is in `out`. */
static bool
examine(int dir_fd, const char *name, struct corpse *out)
{
    struct stat st;
    /* O_NONBLOCK: somebody's FIFO of this name must not hang us. */
    int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1 ||
        !may_lock(fd, &st) || flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        return false;
    }
    *out = (struct corpse){
        .fd = fd,
        .ended_s = last_sign_of_life(fd, &st),
        .size_bytes = (uint64_t)st.st_blocks * 512,
        .device = st.st_dev,
        .inode = st.st_ino,
    };
    strcpy(out->name, name);            /* its length is checked */
    return true;
}

/* A file that is just being made is left alone: the lock is its maker's. */
static bool
may_lock(int fd, const struct stat *st)
{
    uint64_t magic = 0;
    if (pread(fd, &magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) && magic != 0) {
        return true;
    }
    return time(NULL) - st->st_mtime >= BIRTH_WINDOW_S;
}

/* Stores through a mapping do not touch a tmpfs file's times: a worker that
 * ran for days and died a minute ago has an old mtime. Its anchor is young. */
static uint64_t
last_sign_of_life(int fd, const struct stat *st)
{
    _Alignas(64) uint8_t page[LG_HEADER_PAGE];
    struct lg_geometry geo;
    struct lg_anchor anchor = {0};
    uint64_t mtime_s = (uint64_t)st->st_mtime;
    ssize_t n = pread(fd, page, sizeof(page), 0);
    if (n < 0 || lg_geometry_check(page, (size_t)n, (uint64_t)st->st_size, &geo, NULL) != 0) {
        return mtime_s;
    }
    const struct lg_extent *at = &geo.section[LG_SEC_ANCHOR];
    if (!lg_extent_has(at, 0) ||
        pread(fd, &anchor, sizeof(anchor), (off_t)at->offset) != (ssize_t)sizeof(anchor)) {
        return mtime_s;
    }
    uint64_t anchor_s = anchor.real_ns / LG_NS_PER_S;
    /* A clock that was set back must not keep a segment for ever. */
    bool believable = anchor_s > mtime_s && anchor_s <= (uint64_t)time(NULL);
    return believable ? anchor_s : mtime_s;
}

static int
add_corpse(struct morgue *morgue, const struct corpse *corpse)
{
    if (morgue->count == morgue->room) {
        size_t room = morgue->room != 0 ? 2 * morgue->room : 16;
        struct corpse *larger = realloc(morgue->corpse, room * sizeof(*larger));
        if (larger == NULL) {
            return -ENOMEM;
        }
        morgue->corpse = larger;
        morgue->room = room;
    }
    morgue->corpse[morgue->count++] = *corpse;
    return 0;
}

static int
newest_first(const void *a, const void *b)
{
    uint64_t ended_a = ((const struct corpse *)a)->ended_s;
    uint64_t ended_b = ((const struct corpse *)b)->ended_s;
    return ended_a < ended_b ? 1 : ended_a > ended_b ? -1 : 0;
}

static int
sweep(int dir_fd, struct morgue *morgue, bool all)
{
    uint64_t now_s = (uint64_t)time(NULL);
    uint64_t kept = 0;
    uint64_t kept_bytes = 0;
    int removed = 0;
    if (morgue->count > 1) {
        qsort(morgue->corpse, morgue->count, sizeof(*morgue->corpse), newest_first);
    }
    for (size_t i = 0; i < morgue->count; i++) {
        const struct corpse *corpse = &morgue->corpse[i];
        bool old = corpse->ended_s + KEEP_S < now_s;
        if (!all && !old && kept < KEEP_SEGMENTS && kept_bytes + corpse->size_bytes <= KEEP_BYTES) {
            kept++;
            kept_bytes += corpse->size_bytes;
        }
        else {
            removed += unlink_corpse(dir_fd, corpse);
        }
    }
    return removed;
}

static bool
unlink_corpse(int dir_fd, const struct corpse *corpse)
{
    struct stat st;
    return fstatat(dir_fd, corpse->name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_dev == corpse->device && st.st_ino == corpse->inode &&
           unlinkat(dir_fd, corpse->name, 0) == 0;
}
