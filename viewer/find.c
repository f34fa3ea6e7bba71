/*
 * find.c - which case is it? From a pid, a name or a file to a segment.
 *
 * The order of questions for a pid: does the process exist; where may its
 * segment lie (through its own root, through its descriptors, in our own
 * /dev/shm); is the file what its name says; if there is none, why. Each step
 * keeps its errno: EACCES is only told when no later step helps.
 */
#include "find.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../common/lg_clock.h"
#include "../common/lg_error.h"
#include "../common/lg_proc.h"
#include "format.h"

#define SHM_DIR "/dev/shm"
#define MAX_DEPTH 4                     /* sh -> uvicorn -> reloader -> worker */

/* What a search for one process knows and learns. */
struct search {
    pid_t pid;                          /* as seen from here */
    pid_t inner_pid;                    /* as the process sees itself */
    uint32_t uid;
    uint64_t start_ticks;
    bool same_clock;                    /* its start time is told in our terms */
    bool denied;                        /* EACCES on the way */
    bool off;                           /* loaded, but switched off */
    char off_reason[128];
    char stale_path[320];               /* a file of this pid, of an older process */
    uint64_t stale_end_ns;
    struct lg_problem *problem;         /* the last thing wrong with a file of its name */
    int file_error;                     /* its code; 0 = none */
};

/* loopguard.<pid>.<start ticks>[.1-7] */
struct name {
    pid_t pid;
    uint64_t start_ticks;
};

static int find_live(struct search *s, const char *dir, struct lg_source *out);
static int search_dir(struct search *s, const char *dir, struct lg_source *out);
static int search_links(struct search *s, struct lg_source *out);
static int try_file(struct search *s, int dir_fd, const char *entry, const char *path,
                    struct lg_source *out);
static bool right_file(const struct search *s, const struct stat *st);
static int find_ended(pid_t pid, const char *dir, struct lg_source *out);
static int open_source(int fd, const char *path, struct lg_source *out, struct lg_problem *problem,
                       pid_t pid, const char *subject);
static bool parse_name(const char *entry, struct name *out);
static uint64_t last_sign(int fd, const struct lg_geometry *geo);
static void explain_absent(pid_t pid, const char *dir, struct lg_problem *problem);
static void explain_off(const struct search *s, const char *subject, struct lg_problem *problem);
static void explain_nothing(struct search *s, const char *dir, struct lg_problem *problem);
static size_t find_children(pid_t pid, const char *dir, int depth, pid_t *out, size_t room);
static bool is_python(pid_t pid, const char *comm);
static bool has_loaded_agent(pid_t pid);
static bool maps_name(pid_t pid, const char *text);
static const char *user_name(uint32_t uid, char *out, size_t size);
static void scan_containers(struct lg_sources *out, struct lg_problems *problems);
static int next_pid(DIR *proc, pid_t *pid);
static int add_source(struct lg_sources *sources, struct lg_source *source);
static bool known_source(const struct lg_sources *sources, const struct lg_source *source);
static pid_t pid_here(const struct lg_geometry *geo);
static int by_pid(const void *a, const void *b);
static bool contains(const char *text, const char *part);

int
lg_find_pid(pid_t pid, const char *dir, struct lg_source *out, struct lg_problem *problem)
{
    struct lg_proc_stat stat;
    struct lg_proc_status status;
    struct lg_problem last = {0};
    char subject[16];
    snprintf(subject, sizeof(subject), "%d", (int)pid);
    int err = lg_proc_read_stat(pid, &stat);
    if (err == 0) {
        err = lg_proc_read_status(pid, &status);
    }
    if (err == 0 && (stat.state == 'Z' || stat.state == 'X')) {
        err = -ESRCH;                   /* ended; only its parent has not looked */
    }
    if (err != 0 && err != -ESRCH) {
        lg_problem_from_code(problem, pid, subject, err, NULL, 0, NULL);
        return err;
    }
    if (err == -ESRCH) {
        if (find_ended(pid, dir, out) == 0) {
            return 0;
        }
        explain_absent(pid, dir, problem);
        return -ESRCH;
    }
    uint64_t own_time = 0;
    uint64_t its_time = 0;
    struct search s = {
        .pid = pid,
        .inner_pid = (pid_t)status.inner_pid,
        .uid = status.uid,
        .start_ticks = stat.start_ticks,
        .problem = &last,
    };
    /* Not to be had (EACCES): most likely ours. */
    s.same_clock = lg_proc_read_ns(0, "time", &own_time) != 0 ||
                   lg_proc_read_ns(pid, "time", &its_time) != 0 || own_time == its_time;
    err = find_live(&s, dir, out);
    if (err == 0) {
        return 0;
    }
    if (s.file_error != 0) {
        *problem = last;
        return s.file_error;
    }
    explain_nothing(&s, dir, problem);
    return err;
}

int
lg_find_file(const char *path, struct lg_source *out, struct lg_problem *problem)
{
    /* O_NONBLOCK: a FIFO of this name must not hang us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int err = -errno;
        lg_problem_from_code(problem, 0, path, err, NULL, 0, NULL);
        return err;
    }
    int err = open_source(fd, path, out, problem, 0, path);
    if (err != 0) {
        close(fd);
        return err;
    }
    out->by_file = true;
    out->pid = pid_here(&out->geo);
    out->life = lg_liveness(&out->geo, fd, out->pid);
    snprintf(out->label, sizeof(out->label), "%s", problem->subject);
    return 0;
}

void
lg_find_all(const char *dir, struct lg_sources *out, struct lg_problems *problems)
{
    lg_find_dir(dir != NULL ? dir : SHM_DIR, out, problems);
    if (dir == NULL) {
        scan_containers(out, problems);
    }
    if (out->count > 1) {
        qsort(out->list, out->count, sizeof(*out->list), by_pid);
    }
}

void
lg_find_dir(const char *dir, struct lg_sources *out, struct lg_problems *problems)
{
    DIR *entries = opendir(dir);
    if (entries == NULL) {
        if (errno != ENOENT) {
            struct lg_problem problem;
            lg_problem_from_code(&problem, 0, dir, -errno, NULL, 0, NULL);
            lg_problems_add(problems, &problem);
        }
        return;
    }
    struct dirent *entry;
    while ((entry = readdir(entries)) != NULL) {
        struct name name;
        struct lg_problem problem;
        struct lg_source source;
        char path[320];
        char subject[16];
        if (!parse_name(entry->d_name, &name)) {
            continue;
        }
        snprintf(path, sizeof(path), "%.200s/%.100s", dir, entry->d_name);
        snprintf(subject, sizeof(subject), "%d", (int)name.pid);
        int fd =
            openat(dirfd(entries), entry->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0) {
            struct stat st;
            int err = -errno;
            lg_problem_from_code(&problem, name.pid, subject, err, NULL, 0, NULL);
            if ((err == -EACCES || err == -EPERM) &&
                fstatat(dirfd(entries), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
                char owner[64];
                char own[64];
                snprintf(problem.text, sizeof(problem.text),
                         "permission denied: the worker runs as '%s', you are '%s'",
                         user_name(st.st_uid, owner, sizeof(owner)),
                         user_name(geteuid(), own, sizeof(own)));
            }
            if (err != -ENOENT) {
                lg_problems_add(problems, &problem);
            }
            continue;
        }
        int err = open_source(fd, path, &source, &problem, name.pid, subject);
        if (err == 0 && source.geo.header.state == LG_STATE_OFF &&
            source.geo.section[LG_SEC_LOOPS].count == 0) {
            close(fd);
            continue;
        }
        if (err != 0) {
            close(fd);
            /* A file in the making is nobody's fault. */
            if (err != LG_EEMPTY) {
                lg_problems_add(problems, &problem);
            }
            continue;
        }
        source.pid = pid_here(&source.geo);
        source.life = lg_liveness(&source.geo, fd, source.pid);
        snprintf(source.label, sizeof(source.label), "%d",
                 source.pid != 0 ? (int)source.pid : (int)source.geo.proc.pid);
        if (known_source(out, &source) || add_source(out, &source) != 0) {
            lg_source_close(&source);
        }
    }
    closedir(entries);
}

void
lg_find_keep_name(struct lg_sources *sources, const char *text)
{
    size_t kept = 0;
    for (size_t i = 0; i < sources->count; i++) {
        struct lg_source *source = &sources->list[i];
        char line[1024] = "";
        if (source->life == LG_ALIVE && source->pid != 0) {
            (void)lg_proc_read_cmdline(source->pid, line, sizeof(line));
        }
        if (contains(line, text) || contains(source->geo.proc.app, text) ||
            contains(source->geo.proc.argv, text)) {
            sources->list[kept++] = *source;
        }
        else {
            lg_source_close(source);
        }
    }
    sources->count = kept;
}

size_t
lg_find_applications(const struct lg_sources *sources, size_t *application_of)
{
    size_t count = 0;
    for (size_t i = 0; i < sources->count; i++) {
        const struct lg_proc_info *a = &sources->list[i].geo.proc;
        application_of[i] = (size_t)-1;
        if (sources->list[i].life != LG_ALIVE) {
            continue;
        }
        for (size_t k = 0; k < i; k++) {
            const struct lg_proc_info *b = &sources->list[k].geo.proc;
            if (application_of[k] != (size_t)-1 && a->uid == b->uid && a->ppid == b->ppid &&
                a->ns_pid == b->ns_pid && strcmp(a->app, b->app) == 0) {
                application_of[i] = application_of[k];
                break;
            }
        }
        if (application_of[i] == (size_t)-1) {
            application_of[i] = count++;
        }
    }
    /* The ended belong to the application of their former siblings. */
    for (size_t i = 0; i < sources->count; i++) {
        const struct lg_proc_info *a = &sources->list[i].geo.proc;
        for (size_t k = 0; k < sources->count && sources->list[i].life != LG_ALIVE; k++) {
            const struct lg_proc_info *b = &sources->list[k].geo.proc;
            if (sources->list[k].life == LG_ALIVE && a->uid == b->uid && a->ppid == b->ppid &&
                a->ns_pid == b->ns_pid && strcmp(a->app, b->app) == 0) {
                application_of[i] = application_of[k];
                break;
            }
        }
    }
    return count;
}

void
lg_source_close(struct lg_source *source)
{
    if (source->fd >= 0) {
        close(source->fd);
        source->fd = -1;
    }
}

void
lg_sources_free(struct lg_sources *sources)
{
    for (size_t i = 0; i < sources->count; i++) {
        lg_source_close(&sources->list[i]);
    }
    free(sources->list);
    *sources = (struct lg_sources){0};
}

/* The segment of a process that is there: 0, or LG_ENOAGENT with what was met
 * on the way in `s`. */
static int
find_live(struct search *s, const char *dir, struct lg_source *out)
{
    char path[320];
    snprintf(path, sizeof(path), "/proc/%d/root%.250s", (int)s->pid, dir != NULL ? dir : SHM_DIR);
    if (search_dir(s, path, out) == 0) {
        return 0;
    }
    if (search_links(s, out) == 0) {
        return 0;
    }
    /* A worker that changed its user is not dumpable: its root and links are
     * closed to us, but its segment may lie in our own /dev/shm. */
    if (search_dir(s, dir != NULL ? dir : SHM_DIR, out) == 0) {
        return 0;
    }
    return LG_ENOAGENT;
}

static int
search_dir(struct search *s, const char *dir, struct lg_source *out)
{
    struct stat st;
    int found = LG_ENOAGENT;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        s->denied = s->denied || errno == EACCES || errno == EPERM;
        return -errno;
    }
    DIR *entries = fdopendir(fd);
    /* In a folder where anyone may replace another's file, a name proves
     * nothing: sticky, or of root or of the worker's user. */
    if (entries == NULL || fstat(fd, &st) < 0 ||
        ((st.st_mode & S_ISVTX) == 0 && st.st_uid != 0 && st.st_uid != s->uid)) {
        if (entries != NULL) {
            closedir(entries);
        }
        else {
            close(fd);
        }
        return LG_ENOAGENT;
    }
    struct dirent *entry;
    while (found != 0 && (entry = readdir(entries)) != NULL) {
        struct name name;
        char path[320];
        if (!parse_name(entry->d_name, &name) || name.pid != s->inner_pid) {
            continue;
        }
        snprintf(path, sizeof(path), "%.200s/%.100s", dir, entry->d_name);
        found = try_file(s, fd, entry->d_name, path, out);
    }
    closedir(entries);
    return found;
}

/* The descriptors of the process: finds an unlinked segment, one in a folder
 * of the agent's own choice, and the note of an agent that is off. */
static int
search_links(struct search *s, struct lg_source *out)
{
    char dir[64];
    int found = LG_ENOAGENT;
    snprintf(dir, sizeof(dir), "/proc/%d/fd", (int)s->pid);
    DIR *links = opendir(dir);
    if (links == NULL) {
        s->denied = s->denied || errno == EACCES || errno == EPERM;
        return -errno;
    }
    struct dirent *link;
    while (found != 0 && (link = readdir(links)) != NULL) {
        char target[320];
        char path[400];
        ssize_t n = readlinkat(dirfd(links), link->d_name, target, sizeof(target) - 1);
        if (n <= 0) {
            continue;
        }
        target[n] = '\0';
        const char *base = lg_format_base(target);
        struct name name;
        char clean[320];
        snprintf(clean, sizeof(clean), "%s", base);
        char *deleted = strstr(clean, " (deleted)");
        if (deleted != NULL) {
            *deleted = '\0';
        }
        bool note = strncmp(target, "/memfd:" LG_OFF_MEMFD_NAME,
                            sizeof("/memfd:" LG_OFF_MEMFD_NAME) - 1) == 0;
        if (!note && (!parse_name(clean, &name) || name.pid != s->inner_pid)) {
            continue;
        }
        snprintf(path, sizeof(path), "%s/%.16s", dir, link->d_name);
        found = try_file(s, -1, path, path, out);
    }
    closedir(links);
    return found;
}

/* Opens a candidate and checks that it is this process's. `dir_fd` -1: a link
 * of the proc file system, which has to be followed. */
static int
try_file(struct search *s, int dir_fd, const char *entry, const char *path, struct lg_source *out)
{
    struct stat st;
    struct lg_source source;
    struct lg_problem problem;
    char subject[16];
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (dir_fd >= 0 ? O_NOFOLLOW : 0);
    int fd = openat(dir_fd >= 0 ? dir_fd : AT_FDCWD, entry, flags);
    if (fd < 0) {
        s->denied = s->denied || errno == EACCES || errno == EPERM;
        return -errno;
    }
    snprintf(subject, sizeof(subject), "%d", (int)s->pid);
    if (fstat(fd, &st) < 0 || !right_file(s, &st)) {
        close(fd);
        return LG_ENOAGENT;
    }
    int err = open_source(fd, path, &source, &problem, s->pid, subject);
    if (err != 0) {
        struct name name;
        /* A broken file of an older process is not this one's trouble. */
        if (dir_fd >= 0 && s->same_clock && parse_name(entry, &name) &&
            name.start_ticks != s->start_ticks) {
            err = LG_ENOAGENT;
        }
        else {
            *s->problem = problem;
            s->file_error = err;
        }
        close(fd);
        return err;
    }
    const struct lg_proc_info *proc = &source.geo.proc;
    if ((pid_t)proc->pid != s->inner_pid ||
        (s->same_clock && proc->start_ticks != s->start_ticks)) {
        if ((pid_t)proc->pid == s->inner_pid && source.geo.section[LG_SEC_LOOPS].count > 0) {
            snprintf(s->stale_path, sizeof(s->stale_path), "%s", path);
            s->stale_end_ns = last_sign(fd, &source.geo);
        }
        close(fd);
        return LG_ENOAGENT;
    }
    if (source.geo.header.state == LG_STATE_OFF && source.geo.section[LG_SEC_LOOPS].count == 0) {
        s->off = true;
        lg_text_clean(proc->off_reason, strlen(proc->off_reason), s->off_reason,
                      sizeof(s->off_reason));
        close(fd);
        return LG_EOFF;
    }
    source.pid = s->pid;
    source.life = lg_liveness(&source.geo, fd, s->pid);
    snprintf(source.label, sizeof(source.label), "%d", (int)s->pid);
    s->file_error = 0;
    *out = source;
    return 0;
}

/* Not a trap that another user laid. */
static bool
right_file(const struct search *s, const struct stat *st)
{
    return S_ISREG(st->st_mode) && (st->st_uid == s->uid || st->st_uid == 0) &&
           (st->st_mode & (S_IWGRP | S_IWOTH)) == 0 && st->st_nlink <= 1;
}

/* The newest file that an ended process of this number left. */
static int
find_ended(pid_t pid, const char *dir, struct lg_source *out)
{
    struct lg_sources all = {0};
    struct lg_problems ignored = {0};
    struct lg_source *best = NULL;
    uint64_t best_ns = 0;
    lg_find_dir(dir != NULL ? dir : SHM_DIR, &all, &ignored);
    for (size_t i = 0; i < all.count; i++) {
        struct lg_source *source = &all.list[i];
        if ((pid_t)source->geo.proc.pid != pid || source->life == LG_ALIVE) {
            continue;
        }
        uint64_t end_ns = last_sign(source->fd, &source->geo);
        if (best == NULL || end_ns > best_ns) {
            best = source;
            best_ns = end_ns;
        }
    }
    int err = -ESRCH;
    if (best != NULL) {
        *out = *best;
        best->fd = -1;                  /* handed over */
        out->pid = pid;
        snprintf(out->label, sizeof(out->label), "%d", (int)pid);
        err = 0;
    }
    lg_sources_free(&all);
    lg_problems_free(&ignored);
    return err;
}

/* Takes over `fd` on success. Life and label are the caller's. */
static int
open_source(int fd, const char *path, struct lg_source *out, struct lg_problem *problem, pid_t pid,
            const char *subject)
{
    _Alignas(64) uint8_t page[LG_HEADER_PAGE];
    struct stat st;
    struct lg_fault fault = {0};
    size_t got = 0;
    lg_problem_set(problem, pid, subject, "error", LG_EXIT_SEGMENT, "%s", "");
    if (fstat(fd, &st) < 0) {
        int err = -errno;
        lg_problem_from_code(problem, pid, subject, err, NULL, 0, NULL);
        return err;
    }
    if (!S_ISREG(st.st_mode)) {
        lg_problem_from_code(problem, pid, subject, LG_EFORMAT, NULL, 0, NULL);
        return LG_EFORMAT;
    }
    while (got < sizeof(page)) {
        ssize_t n = pread(fd, page + got, sizeof(page) - got, (off_t)got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            int err = -errno;
            lg_problem_from_code(problem, pid, subject, err, NULL, 0, NULL);
            return err;
        }
        if (n == 0) {
            break;
        }
        got += (size_t)n;
    }
    *out = (struct lg_source){
        .fd = fd, .dev = st.st_dev, .ino = st.st_ino, .file_size = (uint64_t)st.st_size};
    int err = lg_geometry_check(page, got, out->file_size, &out->geo, &fault);
    if (err != 0) {
        lg_problem_from_code(problem, pid, subject, err, page, got, &fault);
        return err;
    }
    snprintf(out->path, sizeof(out->path), "%s", path);
    return 0;
}

static bool
parse_name(const char *entry, struct name *out)
{
    size_t prefix = sizeof(LG_SEGMENT_PREFIX) - 1;
    char *end;
    if (strncmp(entry, LG_SEGMENT_PREFIX, prefix) != 0 || !isdigit((unsigned char)entry[prefix])) {
        return false;
    }
    unsigned long pid = strtoul(entry + prefix, &end, 10);
    if (*end != '.' || !isdigit((unsigned char)end[1]) || pid == 0 || pid > INT32_MAX) {
        return false;
    }
    unsigned long long ticks = strtoull(end + 1, &end, 10);
    if (*end != '\0' && !(end[0] == '.' && end[1] >= '1' && end[1] <= '7' && end[2] == '\0')) {
        return false;
    }
    *out = (struct name){.pid = (pid_t)pid, .start_ticks = ticks};
    return true;
}

/* Wall time of the agent's last anchor, 0 when it has none. */
static uint64_t
last_sign(int fd, const struct lg_geometry *geo)
{
    struct lg_anchor anchor;
    const struct lg_extent *x = &geo->section[LG_SEC_ANCHOR];
    if (x->count == 0 || x->known < sizeof(anchor) ||
        pread(fd, &anchor, sizeof(anchor), (off_t)x->offset) != (ssize_t)sizeof(anchor)) {
        return geo->proc.start_real_ns;
    }
    return anchor.real_ns != 0 ? anchor.real_ns : geo->proc.start_real_ns;
}

/* "No such process", or a number that only means something in a container. */
static void
explain_absent(pid_t pid, const char *dir, struct lg_problem *problem)
{
    char subject[16];
    char guesses[512] = "";
    size_t at = 0;
    pid_t candidate;
    snprintf(subject, sizeof(subject), "%d", (int)pid);
    DIR *proc = dir == NULL ? opendir("/proc") : NULL;
    while (proc != NULL && next_pid(proc, &candidate)) {
        struct lg_proc_status status;
        char line[128] = "";
        if (lg_proc_read_status(candidate, &status) != 0 || (pid_t)status.inner_pid != pid ||
            candidate == pid || at + 160 > sizeof(guesses)) {
            continue;
        }
        (void)lg_proc_read_cmdline(candidate, line, sizeof(line));
        char clean[128];
        lg_text_clean(line, strlen(line), clean, sizeof(clean));
        at += (size_t)snprintf(guesses + at, sizeof(guesses) - at, "%s%d (%s)", at > 0 ? ", " : "",
                               (int)candidate, clean);
    }
    if (proc != NULL) {
        closedir(proc);
    }
    if (at > 0) {
        lg_problem_set(problem, pid, subject, "other_namespace", LG_EXIT_NOTHING,
                       "no such process here; it may be the number inside a container");
        lg_problem_hint(problem, "On this host it could be: %s", guesses);
        return;
    }
    lg_problem_set(problem, pid, subject, "no_such_process", LG_EXIT_NOTHING, "no such process");
    lg_problem_hint(problem, "Try 'loopguard-top --list' to see what can be watched.");
}

/* The agent left a note: the system's words where the segment could not be
 * made, otherwise why it is off. */
static void
explain_off(const struct search *s, const char *subject, struct lg_problem *problem)
{
    const char *reason = s->off_reason;
    bool failed = strcmp(reason, lg_strerror(LG_ENOTTMPFS)) == 0;
    for (int code = 1; code < 134 && !failed; code++) {
        failed = strcmp(reason, lg_strerror(-code)) == 0;
    }
    bool more = reason[0] != '\0' && strcmp(reason, "switched off") != 0;
    lg_problem_set(problem, s->pid, subject, "off", LG_EXIT_NOTHING, "%s%s%s",
                   failed ? "the agent could not create its segment"
                          : "the agent is loaded but switched off",
                   more ? ": " : "", more ? reason : "");
}

/* The process is there and no segment was found: the most telling reason. */
static void
explain_nothing(struct search *s, const char *dir, struct lg_problem *problem)
{
    struct lg_proc_stat stat = {0};
    char subject[16];
    char comm[64];
    pid_t children[LG_FOUND_CHILDREN];
    (void)lg_proc_read_stat(s->pid, &stat);
    lg_text_clean(stat.comm, strlen(stat.comm), comm, sizeof(comm));
    snprintf(subject, sizeof(subject), "%d", (int)s->pid);
    if (s->off) {
        explain_off(s, subject, problem);
        return;
    }
    size_t count = find_children(s->pid, dir, MAX_DEPTH, children, LG_FOUND_CHILDREN);
    if (count > 0) {
        char spaces[LG_FOUND_CHILDREN * 12] = "";
        char commas[LG_FOUND_CHILDREN * 12] = "";
        for (size_t i = 0; i < count; i++) {
            char one[16];
            snprintf(one, sizeof(one), "%s%d", i > 0 ? " " : "", (int)children[i]);
            strcat(spaces, one);
            snprintf(one, sizeof(one), "%s%d", i > 0 ? "," : "", (int)children[i]);
            strcat(commas, one);
        }
        lg_problem_set(problem, s->pid, subject, "parent_of_workers", LG_EXIT_NOTHING,
                       "no agent in this process, but %zu of its children %s one: %s", count,
                       count == 1 ? "has" : "have", spaces);
        lg_problem_hint(problem, "Watch them with: loopguard-top -p %s", commas);
        memcpy(problem->children, children, sizeof(children));
        problem->child_count = count;
        return;
    }
    if (s->denied && s->uid != geteuid() && geteuid() != 0 && s->inner_pid == s->pid) {
        char owner[64];
        char own[64];
        user_name(s->uid, owner, sizeof(owner));
        lg_problem_set(problem, s->pid, subject, "permission", LG_EXIT_PERMISSION,
                       "permission denied: the worker runs as '%s', you are '%s'", owner,
                       user_name(geteuid(), own, sizeof(own)));
        lg_problem_hint(problem, "Run as that user: sudo -u %s loopguard-top %d", owner,
                        (int)s->pid);
        return;
    }
    if (s->denied && s->inner_pid != s->pid) {
        lg_problem_set(problem, s->pid, subject, "permission_container", LG_EXIT_PERMISSION,
                       "permission denied to look into its container");
        lg_problem_hint(problem, "Run loopguard-top inside it, or as root on this host.");
        return;
    }
    if (s->stale_path[0] != '\0') {
        char when[LG_TEXT];
        lg_problem_set(problem, s->pid, subject, "pid_reused", LG_EXIT_NOTHING,
                       "this is now another process (%s); its loopguard file belongs to a "
                       "worker that ended %s",
                       comm, lg_format_clock(s->stale_end_ns, 0, false, when, sizeof(when)));
        lg_problem_hint(problem, "To read it: loopguard-top --file=%s", s->stale_path);
        return;
    }
    if (!is_python(s->pid, stat.comm)) {
        lg_problem_set(problem, s->pid, subject, "not_python", LG_EXIT_NOTHING,
                       "not a Python process (%s)", comm);
        return;
    }
    if (has_loaded_agent(s->pid)) {
        lg_problem_set(problem, s->pid, subject, "no_loop_yet", LG_EXIT_NOTHING,
                       "the loopguard agent is loaded, but no event loop has run yet");
        lg_problem_hint(problem, "Try 'loopguard-top --wait %d'.", (int)s->pid);
        return;
    }
    if (s->denied) {
        lg_problem_set(problem, s->pid, subject, "permission", LG_EXIT_PERMISSION,
                       "permission denied to look into this process");
        lg_problem_hint(problem, "Run loopguard-top as root.");
        return;
    }
    lg_problem_set(problem, s->pid, subject, "no_agent", LG_EXIT_NOTHING,
                   "the loopguard agent is not loaded in this process");
    lg_problem_hint(problem,
                    "Start the worker with the agent (see 'Loading the agent' in "
                    "loopguard-top(1)), then try again.");
}

/* Descendants that have a segment: a server's supervisor, a shell, an init. */
static size_t
find_children(pid_t pid, const char *dir, int depth, pid_t *out, size_t room)
{
    size_t count = 0;
    pid_t candidate;
    DIR *proc = opendir("/proc");
    while (proc != NULL && count < room && next_pid(proc, &candidate)) {
        struct lg_proc_stat stat;
        struct lg_proc_status status;
        if (lg_proc_read_stat(candidate, &stat) != 0 || (pid_t)stat.ppid != pid ||
            stat.state == 'Z' || lg_proc_read_status(candidate, &status) != 0) {
            continue;
        }
        struct lg_source source;
        struct lg_problem ignored;
        struct search s = {
            .pid = candidate,
            .inner_pid = (pid_t)status.inner_pid,
            .uid = status.uid,
            .start_ticks = stat.start_ticks,
            .same_clock = true,
            .problem = &ignored,
        };
        if (find_live(&s, dir, &source) == 0) {
            lg_source_close(&source);
            out[count++] = candidate;
        }
        else if (depth > 1) {
            count += find_children(candidate, dir, depth - 1, out + count, room - count);
        }
    }
    if (proc != NULL) {
        closedir(proc);
    }
    return count;
}

/* The program's name says so, or a Python library is mapped. Where neither may
 * be read, what the process calls itself. */
static bool
is_python(pid_t pid, const char *comm)
{
    char text[512] = "";
    if (lg_proc_read_exe(pid, text, sizeof(text)) == 0) {
        return contains(lg_format_base(text), "python") || contains(lg_format_base(text), "pypy") ||
               maps_name(pid, "libpython") || maps_name(pid, ".cpython-");
    }
    (void)lg_proc_read_cmdline(pid, text, sizeof(text));
    return contains(comm, "python") || contains(text, "python") || contains(comm, "uvicorn") ||
           contains(comm, "gunicorn") || contains(comm, "hypercorn") || contains(comm, "granian");
}

static bool
has_loaded_agent(pid_t pid)
{
    return maps_name(pid, "/loopguard/_agent.");
}

static bool
maps_name(pid_t pid, const char *text)
{
    char path[64];
    char line[4352];
    bool found = false;
    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "re");
    while (maps != NULL && !found && fgets(line, sizeof(line), maps) != NULL) {
        const char *name = strchr(line, '/');
        found = name != NULL && strstr(name, text) != NULL;
    }
    if (maps != NULL) {
        fclose(maps);
    }
    return found;
}

static const char *
user_name(uint32_t uid, char *out, size_t size)
{
    struct passwd entry;
    struct passwd *found = NULL;
    char text[1024];
    if (getpwuid_r(uid, &entry, text, sizeof(text), &found) == 0 && found != NULL) {
        snprintf(out, size, "%s", found->pw_name);
    }
    else {
        snprintf(out, size, "%u", uid);
    }
    return out;
}

/* Processes of other mount namespaces: each is asked for its own segment. */
static void
scan_containers(struct lg_sources *out, struct lg_problems *problems)
{
    uint64_t own = 0;
    pid_t pid;
    DIR *proc = opendir("/proc");
    (void)problems;                     /* foreign processes that we may not see are no trouble */
    if (proc == NULL || lg_proc_read_ns(0, "mnt", &own) != 0) {
        if (proc != NULL) {
            closedir(proc);
        }
        return;
    }
    while (next_pid(proc, &pid)) {
        uint64_t its = 0;
        struct lg_proc_stat stat;
        struct lg_proc_status status;
        struct lg_source source;
        struct lg_problem ignored;
        if (lg_proc_read_ns(pid, "mnt", &its) != 0 || its == own ||
            lg_proc_read_stat(pid, &stat) != 0 || lg_proc_read_status(pid, &status) != 0) {
            continue;
        }
        struct search s = {
            .pid = pid,
            .inner_pid = (pid_t)status.inner_pid,
            .uid = status.uid,
            .start_ticks = stat.start_ticks,
            .same_clock = true,
            .problem = &ignored,
        };
        if (find_live(&s, NULL, &source) == 0 &&
            (known_source(out, &source) || add_source(out, &source) != 0)) {
            lg_source_close(&source);
        }
    }
    closedir(proc);
}

static int
next_pid(DIR *proc, pid_t *pid)
{
    struct dirent *entry;
    while ((entry = readdir(proc)) != NULL) {
        char *end;
        unsigned long n = strtoul(entry->d_name, &end, 10);
        if (isdigit((unsigned char)entry->d_name[0]) && *end == '\0' && n <= INT32_MAX) {
            *pid = (pid_t)n;
            return 1;
        }
    }
    return 0;
}

static int
add_source(struct lg_sources *sources, struct lg_source *source)
{
    if (sources->count == sources->room) {
        size_t room = sources->room != 0 ? 2 * sources->room : 8;
        struct lg_source *larger = realloc(sources->list, room * sizeof(*larger));
        if (larger == NULL) {
            return -ENOMEM;
        }
        sources->list = larger;
        sources->room = room;
    }
    sources->list[sources->count++] = *source;
    return 0;
}

static bool
known_source(const struct lg_sources *sources, const struct lg_source *source)
{
    for (size_t i = 0; i < sources->count; i++) {
        if (sources->list[i].dev == source->dev && sources->list[i].ino == source->ino) {
            return true;
        }
    }
    return false;
}

/* The writer's number in our /proc, 0 when it is of another namespace and no
 * process here answers to it. */
static pid_t
pid_here(const struct lg_geometry *geo)
{
    uint64_t own = 0;
    pid_t found = 0;
    pid_t pid;
    if (lg_proc_read_ns(0, "pid", &own) != 0 || own == geo->proc.ns_pid || geo->proc.ns_pid == 0) {
        return (pid_t)geo->proc.pid;
    }
    DIR *proc = opendir("/proc");
    while (proc != NULL && found == 0 && next_pid(proc, &pid)) {
        struct lg_proc_stat stat;
        struct lg_proc_status status;
        if (lg_proc_read_status(pid, &status) == 0 && status.inner_pid == geo->proc.pid &&
            lg_proc_read_stat(pid, &stat) == 0 && stat.start_ticks == geo->proc.start_ticks) {
            found = pid;
        }
    }
    if (proc != NULL) {
        closedir(proc);
    }
    return found;
}

static int
by_pid(const void *a, const void *b)
{
    const struct lg_source *x = a;
    const struct lg_source *y = b;
    if ((x->life == LG_ALIVE) != (y->life == LG_ALIVE)) {
        return x->life == LG_ALIVE ? -1 : 1;
    }
    return x->geo.proc.pid < y->geo.proc.pid ? -1 : x->geo.proc.pid > y->geo.proc.pid ? 1 : 0;
}

static bool
contains(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}
