-- No record is lost for a text that is not UTF-8: a caller chooses the name and the number that are
-- shown, and PostgreSQL refuses the whole row. So cdr_pgsql says that it writes LATIN1, in which
-- every byte is a letter, and the texts are read as UTF-8 here, where they are.

CREATE FUNCTION cdr_text(given text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    IF octet_length(given) = length(given) THEN
        RETURN given; -- ASCII
    END IF;
    RETURN convert_from(convert_to(given, 'LATIN1'), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN given;
END $$;

CREATE FUNCTION cdr_texts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.accountcode := cdr_text(NEW.accountcode);
    NEW.src := cdr_text(NEW.src);
    NEW.dst := cdr_text(NEW.dst);
    NEW.dcontext := cdr_text(NEW.dcontext);
    NEW.clid := cdr_text(NEW.clid);
    NEW.channel := cdr_text(NEW.channel);
    NEW.dstchannel := cdr_text(NEW.dstchannel);
    NEW.lastapp := cdr_text(NEW.lastapp);
    NEW.lastdata := cdr_text(NEW.lastdata);
    NEW.uniqueid := cdr_text(NEW.uniqueid);
    NEW.userfield := cdr_text(NEW.userfield);
    NEW.peeraccount := cdr_text(NEW.peeraccount);
    NEW.linkedid := cdr_text(NEW.linkedid);
    RETURN NEW;
END $$;

-- Only who writes LATIN1 is read so: records that are imported, and cdr_pgsql of an earlier release,
-- are UTF-8.
CREATE TRIGGER cdr_texts BEFORE INSERT ON cdr FOR EACH ROW
    WHEN (current_setting('client_encoding') = 'LATIN1') EXECUTE FUNCTION cdr_texts();
