-- Expand: the column may be empty and has no meaning for the release before this one,
-- which goes on reading and writing teas without it until the switch.
alter table teas add column origin text;

update teas set origin = 'Japan' where name in ('Sencha Asatsuyu', 'Gyokuro Yame');
update teas set origin = 'China' where name in
    ('Long Jing', 'Keemun Hao Ya', 'Tie Guan Yin', 'Da Hong Pao', 'Bai Mu Dan', 'Shou Pu-Erh', 'Jasmine Pearls');
update teas set origin = 'India' where name in ('Darjeeling Margaret''s Hope', 'Assam Mangalam');
update teas set origin = 'South Africa' where name = 'Rooibos';
