/*
 * pysymbol.c - a captured frame's file, function and line.
 *
 * Any thread, no GIL, no allocation. Strings and line tables never change, but
 * a code object may be freed, and another made at its address, at any moment.
 * Therefore nothing that was read is kept for the next time. What is kept is a
 * guess: where the texts of this code object lay. The guess saves a round of
 * reading (code object, then headers, then texts) and is checked as follows.
 * One gathered read copies the texts first and the code object last. If that
 * last copy is alive and bears the stamp of the capture, the object owned its
 * texts during the whole read, so they are the right ones.
 */
#include <Python.h>

#include "pystack_impl.h"

#include <errno.h>
#include <stddef.h>

#define TEXT_BYTES 1024         /* of a string, as stored; more is cut */
#define LINES_BYTES 1024        /* of a line table per read */
#define LINES_MAX (1 << 20)     /* a longer table is garbage, or not worth it */

/* Texts of one code object, copied. */
struct texts {
    char file[sizeof(PyCompactUnicodeObject) + TEXT_BYTES];
    char name[sizeof(PyCompactUnicodeObject) + TEXT_BYTES];
    char lines[offsetof(PyBytesObject, ob_sval) + LINES_BYTES];
    char instr[sizeof(PyVarObject)];    /* frame objects: head of co_code */
    char code[LG_CODE_BYTES];
};

/* A string inside its copy. */
struct text {
    const char *bytes;
    size_t chars;
    unsigned kind;              /* bytes per character */
};

static int learn_guess(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
                       struct lg_pyguess *guess);
static uint32_t string_bytes(const struct lg_pystack *ps, const char *head);
static uint32_t bytes_bytes(const struct lg_pystack *ps, const char *head);
static int read_texts(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
                      const struct lg_pyguess *guess, struct texts *out);
static int find_line(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
                     const struct lg_pyguess *guess, struct texts *texts, int32_t *line);
static bool is_same_code(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
                         const char *code, const char *name);
static struct text text_in(const char *object);
static uint64_t hash_text(uint64_t h, const struct text *text);
static uint16_t put_text(const struct text *text, char *out, size_t size_bytes);
static size_t put_char(uint32_t c, char *out);

int
lg_pystack_symbol(struct lg_pystack_walker *walker, const struct lg_pystack_frame *frame,
                  struct lg_pystack_symbol *out)
{
    if (walker == NULL) {
        return -ENOTSUP;
    }
    struct lg_pyguess *guess = &walker->guesses[lg_mix(0, frame->code) % LG_GUESSES];
    struct texts texts;
    int32_t line = 0;
    int err = -ESTALE;
    lg_memread_begin(&walker->mem);
    if (guess->code == frame->code && guess->stamp == frame->stamp) {
        err = read_texts(walker, frame, guess, &texts);
    }
    if (err == -ESTALE) {
        err = learn_guess(walker, frame, guess);
        if (err == 0) {
            err = read_texts(walker, frame, guess, &texts);
        }
    }
    if (err == 0) {
        err = find_line(walker, frame, guess, &texts, &line);
    }
    lg_memread_end(&walker->mem);
    if (err != 0) {
        guess->code = 0;
        return err;
    }

    struct text file = text_in(texts.file);
    struct text name = text_in(texts.name);
    out->identity = lg_mix(hash_text(hash_text(0, &file), &name), (uint32_t)line);
    out->line = line;
    out->file_size_bytes = put_text(&file, out->file, sizeof(out->file));
    out->name_size_bytes = put_text(&name, out->name, sizeof(out->name));
    return 0;
}

/* Reads the code object and the heads of its texts, each where the last one
 * says. Whether they belong together is found out by read_texts(). */
static int
learn_guess(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
            struct lg_pyguess *guess)
{
    const struct lg_pystack *ps = w->ps;
    const struct lg_pylayout *l = &ps->layout;
    char code[LG_CODE_BYTES];
    char file[sizeof(PyASCIIObject)];
    char name[sizeof(PyASCIIObject)];
    char lines[sizeof(PyVarObject)];
    int err = lg_memread_copy(&w->mem, frame->code, code, l->co_bytes);
    if (err != 0) {
        return err == -EFAULT ? -ESTALE : err;
    }
    *guess = (struct lg_pyguess){
        .code = frame->code,
        .stamp = frame->stamp,
        .file = lg_load_u64(code + l->co_file),
        .name = lg_load_u64(code + l->co_name),
        .lines = lg_load_u64(code + l->co_lines),
        .instr = l->frame_objects ? lg_load_u64(code + l->co_instr) : 0,
    };
    struct lg_memspan spans[] = {
        {guess->file, file, sizeof(file)},
        {guess->name, name, sizeof(name)},
        {guess->lines, lines, sizeof(lines)},
    };
    err = lg_memread_gather(&w->mem, spans, 3);
    if (err != 0) {
        return err == -EFAULT ? -ESTALE : err;
    }
    guess->file_bytes = string_bytes(ps, file);
    guess->name_bytes = string_bytes(ps, name);
    guess->lines_bytes = bytes_bytes(ps, lines);
    if (guess->file_bytes == 0 || guess->name_bytes == 0 || guess->lines_bytes == 0) {
        return -ESTALE;
    }
    return 0;
}

/* Bytes of a string object, head and characters, as far as they are wanted; 0
 * when these are not a string's. Strings of code objects are compact: the
 * characters follow the head. */
static uint32_t
string_bytes(const struct lg_pystack *ps, const char *head)
{
    PyASCIIObject s;
    memcpy(&s, head, sizeof(s));
    unsigned kind = s.state.kind;
    if (lg_load_u64(head + offsetof(PyObject, ob_type)) != ps->str_type || s.length < 0 ||
        !s.state.compact || (kind != 1 && kind != 2 && kind != 4)) {
        return 0;
    }
    size_t max = TEXT_BYTES / kind;
    size_t chars = (size_t)s.length < max ? (size_t)s.length : max;
    size_t head_bytes = s.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject);
    return (uint32_t)(head_bytes + chars * kind);
}

static uint32_t
bytes_bytes(const struct lg_pystack *ps, const char *head)
{
    uint64_t size = lg_load_u64(head + offsetof(PyVarObject, ob_size));
    if (lg_load_u64(head + offsetof(PyObject, ob_type)) != ps->bytes_type || size > LINES_MAX) {
        return 0;
    }
    return (uint32_t)(offsetof(PyBytesObject, ob_sval) + size);
}

static int
read_texts(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
           const struct lg_pyguess *guess, struct texts *out)
{
    const struct lg_pystack *ps = w->ps;
    uint32_t lines_bytes =
        guess->lines_bytes < sizeof(out->lines) ? guess->lines_bytes : (uint32_t)sizeof(out->lines);
    struct lg_memspan spans[5];
    size_t n = 0;
    spans[n++] = (struct lg_memspan){guess->file, out->file, guess->file_bytes};
    spans[n++] = (struct lg_memspan){guess->name, out->name, guess->name_bytes};
    spans[n++] = (struct lg_memspan){guess->lines, out->lines, lines_bytes};
    if (guess->instr != 0) {
        spans[n++] = (struct lg_memspan){guess->instr, out->instr, sizeof(out->instr)};
    }
    spans[n++] = (struct lg_memspan){frame->code, out->code, ps->layout.co_bytes};
    int err = lg_memread_gather(&w->mem, spans, n);
    if (err != 0) {
        return err == -EFAULT ? -ESTALE : err;
    }
    /* The guess was right when the objects are still as long as it says. */
    if (!is_same_code(w, frame, out->code, out->name) ||
        string_bytes(ps, out->file) != guess->file_bytes ||
        string_bytes(ps, out->name) != guess->name_bytes ||
        bytes_bytes(ps, out->lines) != guess->lines_bytes) {
        return -ESTALE;
    }
    if (guess->instr != 0) {
        uint64_t size = lg_load_u64(out->instr + offsetof(PyVarObject, ob_size));
        if (lg_load_u64(out->instr + offsetof(PyObject, ob_type)) != ps->bytes_type ||
            (frame->offset >= 0 && (uint64_t)frame->offset >= size)) {
            return -ESTALE;
        }
    }
    return 0;
}

/* Decodes the first part of the table, which is read already, and further
 * parts until the line is found. */
static int
find_line(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame,
          const struct lg_pyguess *guess, struct texts *texts, int32_t *line)
{
    const struct lg_pylayout *l = &w->ps->layout;
    const uint32_t head = offsetof(PyBytesObject, ob_sval);
    const char *chunk = texts->lines + head;
    char *room = texts->lines + head;
    uint32_t total = guess->lines_bytes - head;
    uint32_t at = 0;
    struct lg_pylines lines;
    lg_pylines_start(&lines, l->lines_form, lg_load_i32(texts->code + l->co_first_line),
                     frame->offset);
    for (;;) {
        uint32_t left = total - at;
        uint32_t n = left < LINES_BYTES ? left : LINES_BYTES;
        size_t used = lg_pylines_feed(&lines, (const uint8_t *)chunk, n, n == left);
        if (lines.done || used == 0) {
            break;
        }
        at += (uint32_t)used;
        left = total - at;
        n = left < LINES_BYTES ? left : LINES_BYTES;
        struct lg_memspan spans[] = {
            {guess->lines + head + at, room, n},
            {frame->code, texts->code, l->co_bytes},
        };
        int err = lg_memread_gather(&w->mem, spans, 2);
        if (err != 0 || !is_same_code(w, frame, texts->code, texts->name)) {
            return -ESTALE;
        }
    }
    *line = lines.found;
    return 0;
}

static bool
is_same_code(struct lg_pystack_walker *w, const struct lg_pystack_frame *frame, const char *code,
             const char *name)
{
    uint64_t name_hash = lg_load_u64(name + offsetof(PyASCIIObject, hash));
    return lg_pycode_is_alive(w->ps, code) &&
           lg_pycode_stamp(&w->ps->layout, code, name_hash) == frame->stamp;
}

static struct text
text_in(const char *object)
{
    PyASCIIObject s;
    memcpy(&s, object, sizeof(s));
    size_t head = s.state.ascii ? sizeof(PyASCIIObject) : sizeof(PyCompactUnicodeObject);
    size_t max = TEXT_BYTES / s.state.kind;
    return (struct text){
        .bytes = object + head,
        .chars = (size_t)s.length < max ? (size_t)s.length : max,
        .kind = s.state.kind,
    };
}

static uint64_t
hash_text(uint64_t h, const struct text *text)
{
    size_t size = text->chars * text->kind;
    size_t i = 0;
    h = lg_mix(h, size);
    for (; i + 8 <= size; i += 8) {
        h = lg_mix(h, lg_load_u64(text->bytes + i));
    }
    if (i < size) {
        uint64_t tail = 0;
        memcpy(&tail, text->bytes + i, size - i);
        h = lg_mix(h, tail);
    }
    return h;
}

/* As UTF-8, cut at a character, with a NUL. */
static uint16_t
put_text(const struct text *text, char *out, size_t size_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < text->chars; i++) {
        char utf8[4];
        uint32_t c = 0;
        const char *from = text->bytes + i * text->kind;
        if (text->kind == 1) {
            c = (unsigned char)*from;
        }
        else if (text->kind == 2) {
            uint16_t c16;
            memcpy(&c16, from, sizeof(c16));
            c = c16;
        }
        else {
            memcpy(&c, from, sizeof(c));
        }
        size_t len = put_char(c, utf8);
        if (n + len >= size_bytes) {
            break;
        }
        memcpy(out + n, utf8, len);
        n += len;
    }
    out[n] = '\0';
    return (uint16_t)n;
}

static size_t
put_char(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if ((c >= 0xd800 && c < 0xe000) || c > 0x10ffff) {
        /* A byte of a file name that was no UTF-8 (surrogateescape). */
        out[0] = '?';
        return 1;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}
