/*
 * lg_geometry.c - checks every number of a header page, once.
 *
 * Works on private bytes only and trusts none of them. No allocation; bounded
 * by LG_MAX_SECTIONS squared. Any thread.
 */
#include "lg_geometry.h"

#include <stdio.h>
#include <string.h>

#include "lg_crc32c.h"
#include "lg_error.h"

/* The same number as LG_ENDIAN_TAG, seen from the other kind of machine. */
#define FOREIGN_TAG UINT32_C(0x04030201)
#define NO_SECTION UINT32_MAX

static int check_start(const uint8_t *page, size_t page_size, uint64_t file_size,
                       struct lg_header *header);
static int check_identity(const struct lg_header *header, struct lg_fault *fault);
static int check_numbers(const struct lg_header *header, const uint8_t *page,
                         struct lg_fault *fault);
static int check_section(const struct lg_header *header, const struct lg_section *table,
                         uint32_t index, struct lg_fault *fault);
static int take_section(const struct lg_section *section, uint32_t index, uint64_t file_size,
                        struct lg_geometry *geo, struct lg_fault *fault);
static int take_process(const uint8_t *page, struct lg_geometry *geo, struct lg_fault *fault);
static uint32_t known_bytes(uint32_t kind);
static bool overlaps(const struct lg_section *a, const struct lg_section *b);
static uint64_t table_offset(uint32_t index);
static int damaged(struct lg_fault *fault, uint64_t offset, const char *what, uint32_t section);

int
lg_geometry_check(const void *page, size_t page_size, uint64_t file_size, struct lg_geometry *out,
                  struct lg_fault *fault)
{
    struct lg_geometry geo;
    struct lg_section table[LG_MAX_SECTIONS];
    struct lg_fault unwanted;
    fault = fault != NULL ? fault : &unwanted;
    memset(&geo, 0, sizeof(geo));
    int err = check_start(page, page_size, file_size, &geo.header);
    if (err != 0) {
        return err;
    }
    err = check_identity(&geo.header, fault);
    if (err == LG_EVERSION) {
        out->header = geo.header;       /* both versions belong in the message */
    }
    if (err == 0 && page_size < LG_HEADER_PAGE) {
        err = LG_ETRUNCATED;
    }
    if (err == 0) {
        err = check_numbers(&geo.header, page, fault);
    }
    if (err != 0) {
        return err;
    }
    uint32_t count = geo.header.section_count;
    memcpy(table, (const uint8_t *)page + sizeof(geo.header), count * sizeof(table[0]));
    for (uint32_t i = 0; i < count && err == 0; i++) {
        err = check_section(&geo.header, table, i, fault);
        if (err == 0) {
            err = take_section(&table[i], i, file_size, &geo, fault);
        }
    }
    if (err == 0) {
        err = take_process(page, &geo, fault);
    }
    if (err != 0) {
        return err;
    }
    *out = geo;
    return 0;
}

bool
lg_range_ok(uint64_t offset, uint64_t n, uint64_t stride, uint64_t size)
{
    if (offset > size) {
        return false;
    }
    return stride == 0 || n <= (size - offset) / stride;
}

/* Every prefix of a segment in the making is named for what it is. */
static int
check_start(const uint8_t *page, size_t page_size, uint64_t file_size, struct lg_header *header)
{
    static const uint8_t zero[8];
    size_t start = page_size < sizeof(zero) ? page_size : sizeof(zero);
    if (file_size == 0 || memcmp(page, zero, start) == 0) {
        return LG_EEMPTY;
    }
    if (memcmp(page, LG_MAGIC, start) != 0) {
        return LG_EFORMAT;
    }
    if (page_size < sizeof(*header)) {
        return LG_ETRUNCATED;
    }
    memcpy(header, page, sizeof(*header));
    return 0;
}

static int
check_identity(const struct lg_header *header, struct lg_fault *fault)
{
    if (header->endian_tag == FOREIGN_TAG) {
        return LG_EENDIAN;
    }
    if (header->endian_tag != LG_ENDIAN_TAG) {
        return damaged(fault, offsetof(struct lg_header, endian_tag), "byte order tag", NO_SECTION);
    }
    if (header->abi_major != LG_ABI_MAJOR || header->incompatible_flags != 0) {
        return LG_EVERSION;
    }
    return 0;
}

static int
check_numbers(const struct lg_header *header, const uint8_t *page, struct lg_fault *fault)
{
    if (header->header_size < sizeof(*header) || header->header_size > LG_HEADER_PAGE ||
        header->header_size % 64 != 0) {
        return damaged(fault, offsetof(struct lg_header, header_size), "size of the header",
                       NO_SECTION);
    }
    if (header->section_count > LG_MAX_SECTIONS ||
        !lg_range_ok(sizeof(*header), header->section_count, sizeof(struct lg_section),
                     header->header_size)) {
        return damaged(fault, offsetof(struct lg_header, section_count), "number of sections",
                       NO_SECTION);
    }
    if (header->segment_size < LG_HEADER_PAGE || header->segment_size > LG_MAX_SEGMENT_BYTES) {
        return damaged(fault, offsetof(struct lg_header, segment_size), "size of the segment",
                       NO_SECTION);
    }
    if (header->state == LG_STATE_INITIALISING || header->state > LG_STATE_OFF) {
        return damaged(fault, offsetof(struct lg_header, state), "state", NO_SECTION);
    }
    if (header->crc32c != lg_crc32c(page + sizeof(*header), LG_HEADER_PAGE - sizeof(*header))) {
        return damaged(fault, offsetof(struct lg_header, crc32c), "checksum of the header page",
                       NO_SECTION);
    }
    return 0;
}

static int
check_section(const struct lg_header *header, const struct lg_section *table, uint32_t index,
              struct lg_fault *fault)
{
    const struct lg_section *section = &table[index];
    uint64_t at = table_offset(index);
    if (section->offset % 64 != 0 || section->offset < header->header_size) {
        return damaged(fault, at + offsetof(struct lg_section, offset), "offset", index);
    }
    if (section->length % 8 != 0 ||
        !lg_range_ok(section->offset, section->length, 1, header->segment_size)) {
        return damaged(fault, at + offsetof(struct lg_section, length), "length", index);
    }
    if (!lg_range_ok(0, section->count, section->stride, section->length)) {
        return damaged(fault, at + offsetof(struct lg_section, count), "count", index);
    }
    for (uint32_t i = 0; i < index; i++) {
        if (overlaps(section, &table[i])) {
            return damaged(fault, at + offsetof(struct lg_section, offset), "overlap", index);
        }
    }
    return 0;
}

/* Enters the section where the reader will look for it, cut to the file. */
static int
take_section(const struct lg_section *section, uint32_t index, uint64_t file_size,
             struct lg_geometry *geo, struct lg_fault *fault)
{
    uint32_t known = known_bytes(section->kind);
    uint64_t at = table_offset(index);
    if (known == 0 || section->version != 1) {
        geo->skipped_sections++;
        return 0;
    }
    /* Words are loaded as words: an element must start at a word. */
    if (section->stride == 0 || (known != 1 && section->stride % 8 != 0) ||
        (known == 1 && section->stride != 1)) {
        return damaged(fault, at + offsetof(struct lg_section, stride), "stride", index);
    }
    struct lg_extent *extent = &geo->section[section->kind];
    if (extent->stride != 0) {
        return damaged(fault, at, "second section of its kind", index);
    }
    *extent = (struct lg_extent){
        .offset = section->offset,
        .length = section->length,
        .stride = section->stride,
        .count = section->count,
        .known = section->stride < known ? section->stride : known,
    };
    if (!lg_range_ok(section->offset, section->length, 1, file_size)) {
        uint64_t there = file_size > section->offset ? file_size - section->offset : 0;
        extent->length = there & ~UINT64_C(7);
        uint64_t whole = extent->length / extent->stride;
        extent->count = whole < extent->count ? (uint32_t)whole : extent->count;
        geo->cut_sections++;
    }
    return 0;
}

/* PROC and CONFIG lie in the page; a shorter element leaves the rest 0. */
static int
take_process(const uint8_t *page, struct lg_geometry *geo, struct lg_fault *fault)
{
    const struct lg_extent *proc = &geo->section[LG_SEC_PROC];
    const struct lg_extent *config = &geo->section[LG_SEC_CONFIG];
    if (proc->count == 0 || !lg_range_ok(proc->offset, 1, proc->known, LG_HEADER_PAGE)) {
        return damaged(fault, sizeof(struct lg_header), "no PROC in the header page", NO_SECTION);
    }
    if (config->count == 0 || !lg_range_ok(config->offset, 1, config->known, LG_HEADER_PAGE)) {
        return damaged(fault, sizeof(struct lg_header), "no CONFIG in the header page", NO_SECTION);
    }
    memcpy(&geo->proc, page + proc->offset, proc->known);
    memcpy(&geo->config, page + config->offset, config->known);
#define END(field) geo->proc.field[sizeof(geo->proc.field) - 1] = '\0'
    END(agent_version);
    END(app);
    END(server);
    END(off_reason);
    END(exe);
    END(argv);
    END(cwd);
    END(prefix);
#undef END
    return 0;
}

/* Size of an element as this program knows it; 0 for a kind it does not. */
static uint32_t
known_bytes(uint32_t kind)
{
    switch (kind) {
#define LG_X(name, number, type, count, what) \
    case number: \
        return sizeof(type);
        LG_SECTIONS(LG_X)
#undef LG_X
    default:
        return 0;
    }
}

/* Both ranges were found to end within the segment: no sum wraps. */
static bool
overlaps(const struct lg_section *a, const struct lg_section *b)
{
    return a->length != 0 && b->length != 0 && a->offset < b->offset + b->length &&
           b->offset < a->offset + a->length;
}

static uint64_t
table_offset(uint32_t index)
{
    return sizeof(struct lg_header) + (uint64_t)index * sizeof(struct lg_section);
}

static int
damaged(struct lg_fault *fault, uint64_t offset, const char *what, uint32_t section)
{
    fault->offset = offset;
    if (section == NO_SECTION) {
        snprintf(fault->what, sizeof(fault->what), "%s", what);
    }
    else {
        snprintf(fault->what, sizeof(fault->what), "%s of section %u", what, section);
    }
    return LG_ECORRUPT;
}
